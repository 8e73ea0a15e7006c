"""Where samples come from; the only modules that know file formats."""
