"""Initialisations of the sweep: their titles, and those whose encoder is trained on the labels."""

from __future__ import annotations

TITLES = {
    "drasclr": "DrasCLR, frozen",
    "finetune": "DrasCLR, fine-tuned",
    "scratch": "from scratch",
    "density": "density (LAA-950, Perc15, volume)",
    "random": "random encoder, frozen",
}
SCRATCH, FINETUNE = "scratch", "finetune"
END_TO_END = (SCRATCH, FINETUNE)  # all weights are trained on the labels
