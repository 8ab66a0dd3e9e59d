"""TODO."""

from __future__ import annotations

NAMES = {
    "drasclr": "DrasCLR, frozen",
    "finetune": "DrasCLR, fine-tuned",
    "scratch": "from scratch",
    "density": "density (LAA-950, Perc15, volume)",
    "random": "random encoder, frozen",
}
SCRATCH, FINETUNE = "scratch", "finetune"
END_TO_END = (SCRATCH, FINETUNE)  # initialisations of which all weights are trained on the labels
