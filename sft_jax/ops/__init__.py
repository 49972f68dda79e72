"""Pure functions of arrays: the mathematics of the library, without parameters or configs."""
