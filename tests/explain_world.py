"""Encoders whose maps are known: what explaining and pointing are tested on."""

import numpy as np

from captioning_fakes import COLOURS, FakeEncoder, share_by_colour

CELL_PX = 4


class MappingEncoder(FakeEncoder):
    """A cell of 4 x 4 pixels is the shares of the colours in it; with `size_px=16` there are 4 x 4 cells."""

    def encode_texts(self, texts):
        rows = np.zeros((len(texts), self.dim), np.float32)
        names = list(COLOURS)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                if word in names:
                    row[names.index(word)] = 1.0
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def encode_maps(self, pixels_BHW3):
        n, side = pixels_BHW3.shape[0], pixels_BHW3.shape[1]
        cells = side // CELL_PX
        parts = pixels_BHW3.reshape(n, cells, CELL_PX, cells, CELL_PX, 3).transpose(0, 1, 3, 2, 4, 5)
        shares = share_by_colour(parts.reshape(-1, CELL_PX, CELL_PX, 3))
        maps = np.full((n * cells * cells, self.dim), 0.01, np.float32)
        maps[:, : shares.shape[1]] += shares
        return maps.reshape(n, cells, cells, self.dim)


class MaplessEncoder(FakeEncoder):
    def encode_maps(self, pixels_BHW3):
        return None


def square_at(row, column, *, side=16, size=4, colour="red", ground="white"):
    """A picture with one square."""
    rgb = np.empty((side, side, 3), np.uint8)
    rgb[:] = COLOURS[ground]
    rgb[row : row + size, column : column + size] = COLOURS[colour]
    return rgb
