"""The data-plus-training platform: from a folder of chest CTs to a label-efficiency report, on Ray."""

__version__ = "0.1.0"
