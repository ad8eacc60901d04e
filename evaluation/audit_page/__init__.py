"""The HTML page of an audit report, in parts: frame, words, pictures, sections."""
