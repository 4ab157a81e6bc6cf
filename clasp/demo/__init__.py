"""The page to try methods on (``make demo``): shows their answers to a question, and the tokens that each keeps.

A small Starlette application, because the usual libraries do not fit. gradio 6.31 needs pillow below 13, which
conflicts with the locked environment; the newest version without that limit, 3.36, would change other packages.
Streamlit 1.67 and NiceGUI 3.18 take uploads as multipart forms, which Starlette writes to disk from 1 MiB on.
"""
