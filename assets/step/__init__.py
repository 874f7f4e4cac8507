"""What every asset does around its computation: keep, check, write, report."""
