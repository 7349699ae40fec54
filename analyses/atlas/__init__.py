"""What decides an image, in every generator of the box?"""
