"""From whatever holds pictures to the exact pixels that the CLIP tower is given."""
