"""A score set in, a live page on this machine out: threshold slider, gallery, filters, marks, export."""
