#!/usr/bin/env bash
# torch 2.13.0 (CPU): under no_grad, a Linear without bias computes a transposed input by another operation where its
# weight wants gradients (aten::mm) than where it does not (aten::bmm).
#
# Weight, input and mode are the same, and only weight.requires_grad differs, which should mean nothing under no_grad.
# The two operations may round otherwise. On one processor with AVX-512 the outputs of transformers' Mamba, whose x_proj
# has such an input, differed by 1e-7 between a model as loaded and the same model after requires_grad_(False); on
# another they were equal. So a comparison bit for bit freezes the weights on both sides.
# A contiguous input takes aten::mm in both cases.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
cat > run.py <<'END'
import torch
from torch.profiler import ProfilerActivity, profile

PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm"}
linear = torch.nn.Linear(32, 8, bias=False)
transposed = torch.randn(2, 32, 12).transpose(1, 2)


def products(x: torch.Tensor, wants_gradients: bool) -> set[str]:
    linear.requires_grad_(wants_gradients)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        linear(x)
    return {event.key for event in seen.key_averages()} & PRODUCTS


print(torch.__version__)
for name, x in (("transposed", transposed), ("contiguous", transposed.contiguous())):
    for wants_gradients in (True, False):
        print(name, wants_gradients, *products(x, wants_gradients))
assert products(transposed, True) == {"aten::mm"}
assert products(transposed, False) == {"aten::bmm"}
assert products(transposed.contiguous(), True) == products(transposed.contiguous(), False) == {"aten::mm"}
END
venv/bin/python run.py 2> errors || { cat errors; exit 1; }
