"""Human activities and postural transitions, recorded by a smartphone."""
