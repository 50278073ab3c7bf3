"""The grid of bins, see `binning.py`. It lies here because compiled code is kept by the sources of this package."""

# Ranges of logits, [bound, next bound), and bins per logit in each.
BOUNDS = (-20, -7, 4, 20)
BINS_PER_LOGIT = (16, 128, 32)
_SIZES = tuple((high - low) * bins for low, high, bins in zip(BOUNDS[:-1], BOUNDS[1:], BINS_PER_LOGIT, strict=True))
BIN_COUNT = sum(_SIZES)
# floor(x * bins per logit) + offset is the bin of an x in that range. The numbers of bins are powers of two that rise
# once and then fall, so that min(max(low, middle), high) of the three picks the right one.
OFFSETS = tuple(sum(_SIZES[:i]) - BOUNDS[i] * BINS_PER_LOGIT[i] for i in range(3))
