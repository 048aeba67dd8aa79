"""Names of H.264's profiles and levels (ITU-T H.264, annex A)."""

from typing import Final

from gopstream.pipeline.h264_syntax import SequenceParameters

_PROFILES: Final = {
    44: "CAVLC 4:4:4 Intra",
    66: "Baseline",
    77: "Main",
    83: "Scalable Baseline",
    86: "Scalable High",
    88: "Extended",
    100: "High",
    110: "High 10",
    118: "Multiview High",
    122: "High 4:2:2",
    128: "Stereo High",
    134: "MFC High",
    135: "MFC Depth High",
    138: "Multiview Depth High",
    139: "Enhanced Multiview Depth High",
    244: "High 4:4:4 Predictive",
}


def profile_name(sps: SequenceParameters) -> str:
    """Return the profile's name (clause A.2), such as ``Constrained Baseline``."""
    name = _PROFILES.get(sps.profile_idc, f"profile {sps.profile_idc}")
    set1, set3, set4, set5 = (sps.constraint_flags & bit != 0 for bit in (0x40, 0x10, 0x08, 0x04))
    if name == "Baseline" and set1:
        return "Constrained Baseline"
    if name == "High" and set4 and set5:
        return "Constrained High"
    if sps.profile_idc in (110, 122, 244) and set3:
        return f"{name.removesuffix(' Predictive')} Intra"
    return name


def level_name(sps: SequenceParameters) -> str:
    """Return the level's name (clause A.3), such as ``4.1`` or ``1b``."""
    is_old_profile = sps.profile_idc in (66, 77, 88)
    if sps.level_idc == 9 or (sps.level_idc == 11 and is_old_profile and sps.constraint_flags & 16):
        return "1b"
    return f"{sps.level_idc // 10}.{sps.level_idc % 10}"
