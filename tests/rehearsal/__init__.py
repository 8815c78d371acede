"""A rehearsal of CUDA on a CPU: our CUDA paths run, and calls that CUDA would refuse are refused.

`machine` describes the GPUs of a fake machine. `cuda` installs a fake `torch.cuda` in this process.
If the folder `activation/` is on PYTHONPATH, all Python processes use the fake. If it comes first
on PATH, its `nvidia-smi` is used. `product` is the only module that uses internals of the code
under test. The rehearsal does not cover Inductor, NCCL, the numbers of CUDA's kernels, or time.
"""
