"""The report room: tables, figures and Weights & Biases logs, built from results files alone. Torch-free."""
