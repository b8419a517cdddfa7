"""The commands of `dfs-edu`: the signature of each gives its options, its docstring their help."""
