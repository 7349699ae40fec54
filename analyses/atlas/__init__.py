"""What decides an image, in generators of the box?"""
