"""The stages, one module each: what a stage reads, writes and costs, how it runs, and what is discarded to redo it.

Each module defines `STAGE`; `pipeline.graph` puts them in order.
"""
