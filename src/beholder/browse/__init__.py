"""The live page: one score set shown on this machine, with threshold slider, gallery, filters, marks and export."""
