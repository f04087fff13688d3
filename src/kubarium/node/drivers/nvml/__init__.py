"""This machine's own NVIDIA GPUs, through NVML: found, published, handed out, watched, measured.

Start reading at machine.py. Everything else takes the library as a value (library.Nvml), so that
tests play it.
"""
