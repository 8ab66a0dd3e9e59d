"""The sections of the report, a module each: `section(inputs)` returns the section, or why it is left out."""
