"""What `make bench` runs: times and operations, interleaved in one run, quoted as ratios of medians."""
