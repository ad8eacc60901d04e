"""The HTML page of a report, in parts: style, cards, sections, pictures made inline."""
