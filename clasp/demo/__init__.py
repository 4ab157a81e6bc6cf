"""The page to try methods on (``make demo``): one's own image and question, the answers and what each method keeps.

A small Starlette application, because the usual libraries do not fit: gradio 6.31 wants pillow below 13, which would
change the locked environment (pip finds no newer one without that limit than 3.36, which moves others); Streamlit
1.67 and NiceGUI 3.18 install, but take uploads as multipart forms, which Starlette writes to the disk from 1 MiB on.
"""
