"""What users bring in files: text, tables, folders of images, positions."""
