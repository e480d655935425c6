"""What every folder uses: checks of arguments, files written whole, helpers for autograd."""
