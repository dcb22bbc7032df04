"""Training algorithms on tiles, one a file: analog SGD and Tiki-Taka."""
