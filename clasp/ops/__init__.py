"""Pure tensor functions that selection rules are made of: batched, no models, no state."""
