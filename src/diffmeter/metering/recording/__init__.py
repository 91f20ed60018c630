"""What a pipeline did: its calls as plain data, recorded or dry run, and the profile made of them."""
