"""What a config is made of: names of classes, slots and their arguments, and the objects they become."""
