"""ICC profiles made from a few numbers: matrices, grey, inks."""

import struct

"""Columns of matrices, adapted to D50."""
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def s15(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma):
    """`para` of sRGB's own form, or a plain power."""
    if gamma == "sRGB":
        return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def profile(space, tags, *, kind=b"mntr", pcs=b"XYZ "):
    """An ICC profile of version 2 from its tags."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": xyz(0.9642, 1.0, 0.8249), **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    whole = struct.pack(">I", len(tags)) + table + body
    head = struct.pack(">I4sI4s4s4s", 128 + len(whole), bytes(4), 0x02400000, kind, space, pcs)
    return head + bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1.0, 0.8249) + bytes(48) + whole


def xyz(*values):
    return b"XYZ " + bytes(4) + s15(*values)


def rgb_profile(columns, gamma="sRGB"):
    tags = {bytes(name, "ascii") + b"XYZ": xyz(*column) for name, column in zip("rgb", columns, strict=True)}
    return profile(b"RGB ", tags | {bytes(name, "ascii") + b"TRC": curve(gamma) for name in "rgb"})


def grey_profile(gamma):
    return profile(b"GRAY", {b"kTRC": curve(gamma)})


def ink_profile(lab_of_inks):
    """Inks to Lab by an 8-bit table with two nodes for each ink."""
    nodes = [lab_of_inks(*(bool(index & 8 >> ink) for ink in range(4))) for index in range(16)]
    grid = bytes(round(v) for light, a, b in nodes for v in (light * 2.55, a + 128, b + 128))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + s15(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + grid + ramp * 3
    return profile(b"CMYK", {b"A2B0": table, b"A2B1": table}, kind=b"prtr", pcs=b"Lab ")
