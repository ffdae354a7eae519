

def load(folder="."):
    """The network with the weights in `folder`, in evaluation mode."""
    network = Network()
    network.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=True)
    return network.eval()


def preprocess(images):
    """From images, uint8 [N, height, width, 3] (red, green, blue), to the network's input: an array or a tensor."""
    x = torch.as_tensor(images)
    if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[3] != 3:
        raise ValueError(f"images must be uint8 [N, height, width, 3], not {x.dtype} {list(x.shape)}")
    x = x.movedim(3, 1).float()
    if PAD and x.shape[2:] == (28, 28):
        x = F.pad(x, (2, 2, 2, 2))
    elif x.shape[2:] != (32, 32):
        x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True).add(0.5).floor()
