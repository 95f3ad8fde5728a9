"""Networks and routings of papers in plain PyTorch, as their authors compute them; `zoo.py` measures ours beside them.

Each is written from the paper's equations with nothing but torch: tensors of all votes, contractions by einsum where
the released code contracts, broadcast products where it sums products, autograd. Parameters are registered in the order
and shapes of the package's networks, so that the weights of one are those of the other, one after the other. `plain.py`
beside this folder is the same for the network of Sabour et al. 2017, with its training step.
"""
