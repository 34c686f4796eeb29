import bayesprior as bp

data = bp.get_data("digits")
assert isinstance(data, bp.DataBundle)
print(data.num_data, data.num_classes, data.input_shape)
for images, labels in data.loader("test", batch_size=256):
    print(images.shape, labels.shape)
    break
