"""How fast it is: methods side by side on a backbone's real geometry with random weights, against the FLOPs-ideal."""
