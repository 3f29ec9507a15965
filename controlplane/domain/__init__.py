"""What trainplane means, apart from any technology: stdlib only, synchronous, without a clock."""
