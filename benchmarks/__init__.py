"""What ``make bench`` runs: times and operation counts. Variants take turns in one run; quote ratios of medians."""
