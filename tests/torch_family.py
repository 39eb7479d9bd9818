"""The original's DLA-34 and stacked hourglass in PyTorch, with its parameter names, for tests and benchmarks."""
import torch
from torch import nn
from torch.nn import functional

from tests.torch_reference import DCN


def _conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _conv_norm(inputs, outputs, kernel, stride=1, relu=True):
    activation = [nn.ReLU()] if relu else []
    return nn.Sequential(_conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), *activation)


def _head(inputs, head_conv, outputs):
    return nn.Sequential(nn.Conv2d(inputs, head_conv, 3, padding=1), nn.ReLU(), nn.Conv2d(head_conv, outputs, 1))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x, shortcut):
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + shortcut)


class Root(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn = _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, *maps):
        return functional.relu(self.bn(self.conv(torch.cat(maps, 1))))


class SimpleTree(nn.Module):
    """Two blocks and a root, which also joins the maps handed down."""

    def __init__(self, inputs, outputs, stride, handed_down, keep_input=False):
        super().__init__()
        self.stride, self.keep_input = stride, keep_input
        self.tree1, self.tree2 = Block(inputs, outputs, stride), Block(outputs, outputs)
        self.root = Root(2 * outputs + handed_down, outputs)
        self.project = _conv_norm(inputs, outputs, 1, relu=False) if inputs != outputs else None

    def forward(self, x, *handed_down):
        shrunk = functional.max_pool2d(x, self.stride) if self.stride > 1 else x
        left = self.tree1(x, self.project(shrunk) if self.project else shrunk)
        return self.root(self.tree2(left, left), left, *([shrunk] if self.keep_input else []), *handed_down)


class DoubleTree(nn.Module):
    """Two consecutive simple trees; the second root also joins the input and the first output."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.tree1, self.tree2 = SimpleTree(inputs, outputs, 2, 0), SimpleTree(outputs, outputs, 1, inputs + outputs)
        self.project = _conv_norm(inputs, outputs, 1, relu=False)  # unused, as in the original

    def forward(self, x):
        left = self.tree1(x)
        return self.tree2(left, functional.max_pool2d(x, 2), left)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.base_layer, self.level0 = _conv_norm(3, 16, 7), _conv_norm(16, 16, 3)
        self.level1 = _conv_norm(16, 32, 3, 2)
        self.level2 = SimpleTree(32, 64, 2, 0)
        self.level3, self.level4 = DoubleTree(64, 128), DoubleTree(128, 256)
        self.level5 = SimpleTree(256, 512, 2, 256, keep_input=True)

    def forward(self, x):
        maps = [self.level2(self.level1(self.level0(self.base_layer(x))))]
        for level in (self.level3, self.level4, self.level5):
            maps.append(level(maps[-1]))
        return maps


class Deform(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.actf, self.conv = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU()), DCN(inputs, outputs)

    def forward(self, x):
        return self.actf(self.conv(x))


class Ida(nn.Module):
    def __init__(self, outputs, inputs, factors):
        super().__init__()
        for i, (channels, factor) in enumerate(zip(inputs, factors), 1):
            setattr(self, f"proj_{i}", Deform(channels, outputs))
            up = nn.ConvTranspose2d(outputs, outputs, 2 * factor, factor, factor // 2, groups=outputs, bias=False)
            setattr(self, f"up_{i}", up)
            setattr(self, f"node_{i}", Deform(outputs, outputs))

    def forward(self, maps):
        done = [maps[0]]
        for i, x in enumerate(maps[1:], 1):
            done.append(getattr(self, f"node_{i}")(getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(x)) + done[-1]))
        return done


class DLANet(nn.Module):
    """Image [N, 3, H, W] -> hm (logits), wh, reg."""

    def __init__(self, num_classes, head_conv=256):
        super().__init__()
        self.base, self.dla_up = Base(), nn.Module()
        self.dla_up.ida_0 = Ida(256, [512], [2])
        self.dla_up.ida_1 = Ida(128, [256, 256], [2, 2])
        self.dla_up.ida_2 = Ida(64, [128, 128, 128], [2, 2, 2])
        self.ida_up = Ida(64, [128, 256], [2, 4])
        self.hm, self.wh, self.reg = (_head(64, head_conv, outputs) for outputs in (num_classes, 2, 2))

    def forward(self, image):
        maps, last = self.base(image), []
        for start, ida in ((2, self.dla_up.ida_0), (1, self.dla_up.ida_1), (0, self.dla_up.ida_2)):
            maps = maps[:start] + ida(maps[start:])
            last.insert(0, maps[-1])
        x = self.ida_up(last)[-1]
        return self.hm(x), self.wh(x), self.reg(x)


class PlainIda(nn.Module):
    def __init__(self, outputs, inputs):
        super().__init__()
        for i in range(1, inputs + 1):
            setattr(self, f"proj_{i}", _conv_norm(2 * outputs, outputs, 1))
            setattr(self, f"up_{i}", nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, groups=outputs, bias=False))
            setattr(self, f"node_{i}", _conv_norm(2 * outputs, outputs, 3))

    def forward(self, maps):
        done = [maps[0]]
        for i, x in enumerate(maps[1:], 1):
            x = getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(x))
            done.append(getattr(self, f"node_{i}")(torch.cat([done[-1], x], 1)))
        return done


class PlainDLANet(nn.Module):
    """dlav0_34, without deformable convolutions: image [N, 3, H, W] -> hm (logits), wh, reg."""

    def __init__(self, num_classes, head_conv=256):
        super().__init__()
        self.base, self.dla_up = Base(), nn.Module()
        self.base.fc = nn.Conv2d(512, 1000, 1)  # the classifier, unused
        self.dla_up.ida_0, self.dla_up.ida_1, self.dla_up.ida_2 = PlainIda(256, 1), PlainIda(128, 2), PlainIda(64, 3)
        self.hm, self.wh, self.reg = (_head(64, head_conv, outputs) for outputs in (num_classes, 2, 2))

    def forward(self, image):
        maps = self.base(image)
        for start, ida in ((2, self.dla_up.ida_0), (1, self.dla_up.ida_1), (0, self.dla_up.ida_2)):
            maps = maps[:start] + ida(maps[start:])
        return self.hm(maps[-1]), self.wh(maps[-1]), self.reg(maps[-1])


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Sequential() if same else _conv_norm(inputs, outputs, 1, stride, relu=False)

    def forward(self, x):
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + self.skip(x))


class Convolution(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Sequential()

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class Level(nn.Module):
    def __init__(self, dims):
        super().__init__()
        here, below = dims[:2]
        self.up1 = nn.Sequential(Residual(here, here), Residual(here, here))
        self.low1 = nn.Sequential(Residual(here, below, 2), Residual(below, below))
        self.low2 = Level(dims[1:]) if len(dims) > 2 else nn.Sequential(*(Residual(below, below) for _ in range(4)))
        self.low3 = nn.Sequential(Residual(below, below), Residual(below, here))

    def forward(self, x):
        return self.up1(x) + functional.interpolate(self.low3(self.low2(self.low1(x))), scale_factor=2, mode="nearest")


class HourglassNet(nn.Module):
    """Image [N, 3, H, W] -> hm (logits), wh, reg of the first stack, then of the following ones."""

    def __init__(self, num_classes, stacks=2, dims=(256, 256, 384, 384, 384, 512), stem=(128, 256), features=256):
        super().__init__()
        self.pre = nn.Sequential(Convolution(3, stem[0], 7, 2), Residual(*stem, 2))
        self.kps = nn.ModuleList(Level(dims) for _ in range(stacks))
        self.cnvs = nn.ModuleList(Convolution(dims[0], features, 3) for _ in range(stacks))
        self.inters = nn.ModuleList(Residual(dims[0], dims[0]) for _ in range(stacks - 1))
        self.inters_ = nn.ModuleList(_conv_norm(dims[0], dims[0], 1, relu=False) for _ in range(stacks - 1))
        self.cnvs_ = nn.ModuleList(_conv_norm(features, dims[0], 1, relu=False) for _ in range(stacks - 1))
        for name, outputs in (("hm", num_classes), ("wh", 2), ("reg", 2)):
            heads = [nn.Sequential(Convolution(features, dims[0], 3, norm=False), nn.Conv2d(dims[0], outputs, 1))
                     for _ in range(stacks)]
            setattr(self, name, nn.ModuleList(heads))

    def forward(self, image):
        x, maps = self.pre(image), []
        for stack, (level, convolution) in enumerate(zip(self.kps, self.cnvs)):
            features = convolution(level(x))
            maps += [head[stack](features) for head in (self.hm, self.wh, self.reg)]
            if stack < len(self.inters):
                x = self.inters[stack](functional.relu(self.inters_[stack](x) + self.cnvs_[stack](features)))
        return maps
