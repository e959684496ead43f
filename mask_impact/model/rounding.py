"""How far a computation may be from the model's own and still differ by rounding only.

In: a dtype. Out: the largest distance of two vectors, relative to the length of the model's own, that rounding in that
dtype explains. Both parts of the engine check themselves with it: a replayed layer (`impact/meter.py`) and a carried
run (`effects/carry.py`), each without a mask.
"""

import torch

# The residual stream can be much longer than one layer's update, and its rounding is then that much larger: a caller
# that compares updates takes the limit relative to the length of the stream where that is longer.
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
