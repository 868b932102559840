"""The `turbospec` command line.

It never imports torch, SGLang or `sglang_patch`: it starts those as child processes.
"""
