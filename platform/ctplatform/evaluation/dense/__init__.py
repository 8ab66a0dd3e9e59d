"""Tasks whose labels are voxels: emphysema subtypes by dense prediction, segmentation of nodules and lobes.

`labelmap` reads a label map, `cube` is a scan's lungs at 1 mm with it, `windows` slide over a cube, `features` encodes
them once, `problem` joins them with split and cohort, `subtypes` and `segmentation` are the trials.
docs/explanation/evaluation.md says how it works.
"""
