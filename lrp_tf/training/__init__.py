"""What the scripts that train have in common: data, batches, fits that can be killed, reports.

mnist/train.py and vgg/train.py are their commands; messages name the options of these.
"""
