"""The work of stages on the jobs of a pass. These modules import torch; a plan imports none of them."""
