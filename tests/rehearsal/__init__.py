"""A rehearsal of CUDA on a CPU: the CUDA paths of the product run, and what CUDA refuses is refused.

`machine` describes the GPUs of a fake machine. `cuda` installs a fake `torch.cuda` in this process.
`activation/` is a folder for PYTHONPATH: every Python process below it has the fake, and so has
`nvidia-smi` on a PATH that begins with it. `product` is the only module that uses internals of
the product. Not rehearsed: Inductor, NCCL, the numbers of CUDA's kernels, and time.
"""
