"""Cases of the fault corpus with unusual pictures."""

from typing import Final

from gopstream.jobs.bench.fault_corpus import (
    CLEAN,
    INTERLACED,
    NO_MOTION,
    PICTURES,
    PLAIN,
    X264,
    Case,
    Expected,
    joined,
)

_GROUP: Final = "Unusual pictures"
_FIELDS: Final = f"{PICTURES.replace('25', '50')},tinterlace=interleave_top"
_FIELD_CODING: Final = "-flags +ildct+ilme"
_PQ: Final = "-color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc"
_TURN: Final = "-display_rotation {angle} -i {{plain.mp4}} -c copy"
PICTURE_CASES: Final = [
    Case(
        "plain.mp4",
        _GROUP,
        "nothing is wrong with it",
        "-i {plain.mp4} -c copy",
        CLEAN,
        CLEAN,
    ),
    *(
        Case(
            f"rotated_{angle}.mp4",
            _GROUP,
            f"display matrix of {angle} degrees",
            _TURN.format(angle=angle),
            CLEAN,
            CLEAN,
        )
        for angle in (90, 180, 270)
    ),
    Case(
        "odd_444.mp4",
        _GROUP,
        "341x255, 4:4:4",
        f"-f lavfi -i testsrc2=s=341x255:d=0.48 -pix_fmt yuv444p {X264}",
        CLEAN,
        CLEAN,
        12,
    ),
    Case(
        "cropped.mp4",
        _GROUP,
        "170x130",
        f"-f lavfi -i testsrc2=s=170x130:d=0.48 -pix_fmt yuv420p {X264}",
        CLEAN,
        CLEAN,
        12,
    ),
    Case(
        "tiny.mp4",
        _GROUP,
        "16x16",
        f"-f lavfi -i testsrc2=s=16x16:d=0.48 -pix_fmt yuv420p {X264}",
        CLEAN,
        CLEAN,
        12,
    ),
    Case(
        "wide_pixels.mp4",
        _GROUP,
        "pixels twice as wide as high",
        f"{PICTURES},setsar=2 -pix_fmt yuv420p {X264}",
        CLEAN,
        CLEAN,
    ),
    Case(
        "strip.mp4",
        _GROUP,
        "2048x16",
        f"-f lavfi -i testsrc2=s=2048x16:d=0.12 -pix_fmt yuv420p {X264}",
        CLEAN,
        CLEAN,
        3,
    ),
    Case(
        "size_change.h264",
        _GROUP,
        "128x96, then 176x144",
        joined("plain.h264", "larger.h264"),
        Expected("warned", "picture size or format change"),
        Expected("refused", "BitstreamError: size"),
        36,
    ),
    Case(
        "size_change.ts",
        _GROUP,
        "128x96, then 176x144",
        joined("plain.ts", "larger.ts"),
        Expected("warned", "picture size or format change"),
        Expected("refused", "BitstreamError: size"),
        36,
    ),
    Case(
        "interlaced.mp4",
        _GROUP,
        "H.264, field macroblocks, top field first",
        f"{_FIELDS} -pix_fmt yuv420p {X264} {_FIELD_CODING}",
        CLEAN,
        INTERLACED,
    ),
    Case(
        "interlaced_422.mp4",
        _GROUP,
        "H.264, interlaced, 4:2:2",
        f"{_FIELDS} -pix_fmt yuv422p {X264} {_FIELD_CODING}",
        CLEAN,
        INTERLACED,
    ),
    Case(
        "interlaced_mpeg2.ts",
        _GROUP,
        "MPEG-2, interlaced",
        f"{_FIELDS} -pix_fmt yuv420p -c:v mpeg2video {_FIELD_CODING} -muxdelay 0",
        CLEAN,
        INTERLACED,
    ),
    *(
        Case(
            f"{name}.mp4",
            _GROUP,
            f"H.264, {pixels}",
            f"{PICTURES} -pix_fmt {pixels} {X264}",
            CLEAN,
            CLEAN,
        )
        for name, pixels in (
            ("bits_10", "yuv420p10le"),
            ("chroma_422", "yuv422p"),
            ("chroma_444", "yuv444p"),
            ("grey", "gray"),
            ("full_range", "yuvj420p"),
        )
    ),
    Case(
        "rgb.mp4",
        _GROUP,
        "H.264, RGB",
        f"{PICTURES} -pix_fmt rgb24 -c:v libx264rgb -preset veryfast -bf 0",
        CLEAN,
        CLEAN,
    ),
    Case("lossless.mp4", _GROUP, "H.264, lossless", f"{PLAIN} -qp 0", CLEAN, CLEAN),
    Case(
        "hdr.mp4",
        _GROUP,
        "H.264, 10 bit, BT.2020 PQ",
        f"{PICTURES} -pix_fmt yuv420p10le {X264} {_PQ}",
        CLEAN,
        CLEAN,
    ),
    Case(
        "alpha.webm",
        _GROUP,
        "VP9 with an alpha plane",
        f"{PICTURES},format=yuva420p -c:v libvpx-vp9 -cpu-used 8 -deadline realtime",
        CLEAN,
        NO_MOTION,
    ),
    Case(
        "alpha_prores.mov",
        _GROUP,
        "ProRes 4444 with alpha",
        f"{PICTURES},format=yuva444p10le -c:v prores_ks -profile:v 4444",
        CLEAN,
        NO_MOTION,
    ),
    Case(
        "alpha_rle.mov",
        _GROUP,
        "QuickTime Animation, ARGB",
        f"{PICTURES},format=argb -c:v qtrle",
        CLEAN,
        NO_MOTION,
    ),
    Case(
        "eight_k.mp4",
        _GROUP,
        "7680x4320",
        "-f lavfi -i testsrc=s=7680x4320:r=25 -frames:v 3 -pix_fmt yuv420p -c:v libx264 "
        "-preset ultrafast -bf 0 -refs 1",
        CLEAN,
        CLEAN,
        3,
        is_slow=True,
    ),
]
