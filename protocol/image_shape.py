"""The shape of the images of a study: public, part of the schema, and the same at every site."""

from dataclasses import dataclass

from protocol.errors import SchemaError

SMALLEST_SIDE, LARGEST_SIDE = 8, 64
MOST_LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """Sides, channels and grey levels of every image of a study.

    Attributes:
        height: Rows of pixels, 8 to 64.
        width: Columns of pixels, 8 to 64.
        channels: 1 (grey) or 3 (red, green, blue).
        levels: Levels of a channel of a pixel, 2 to 256; code 0 is black, code ``levels - 1`` is full.

    Raises:
        SchemaError: A number is out of range.

    Examples:
        >>> ImageShape(height=28, width=28).size
        784
    """

    height: int
    width: int
    channels: int = 1
    levels: int = MOST_LEVELS

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("height", "width"):
            if not SMALLEST_SIDE <= getattr(self, name) <= LARGEST_SIDE:
                raise SchemaError(
                    f"image: {name} = {getattr(self, name)}.",
                    remedy=f"Give a whole number from {SMALLEST_SIDE} to {LARGEST_SIDE}.",
                )
        if self.channels not in (1, 3):
            raise SchemaError(f"image: channels = {self.channels}.", remedy="Give 1 (grey) or 3 (colour).")
        if not 2 <= self.levels <= MOST_LEVELS:
            raise SchemaError(f"image: levels = {self.levels}.", remedy=f"Give a whole number from 2 to {MOST_LEVELS}.")

    @property
    def words(self) -> str:
        """The shape in words.

        Examples:
            >>> ImageShape(height=28, width=28).words
            '28 x 28 pixels, grey, 256 levels'
        """
        colour = "grey" if self.channels == 1 else "in colour"
        return f"{self.height} x {self.width} pixels, {colour}, {self.levels} levels"

    @property
    def size(self) -> int:
        """Codes of an image: channels x height x width."""
        return self.channels * self.height * self.width
