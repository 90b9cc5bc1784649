"""How a model lies in memory and how it is run: types, quantisation, offload, kernels, and what it will need."""
