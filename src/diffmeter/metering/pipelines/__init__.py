"""What is to be known of a pipeline before it runs: its parts, how its call is asked, which part does what."""
