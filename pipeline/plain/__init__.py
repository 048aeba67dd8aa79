"""The kernels once more in plain NumPy: slow, and easy to check against the standard.

Nothing that is extracted comes from here. Tests and ``make prove-skip`` hold the compiled kernels
equal to these, bit for bit.
"""
