"""Score sets: how scores and rejects are written, and what a run says about them."""
