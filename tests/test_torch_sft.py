"""The PyTorch module of the benchmark gives the numbers of the authors' code.

Needs torch (the extra of that name), which the default tests do not install.
"""

import numpy as np
import pytest
import reference

torch = pytest.importorskip("torch")

from benchmarks.torch_sft import SLOTS, TorchSft, make_optimizer, train_step  # noqa: E402

FILES = reference.names("sft_[pk]*_max", "sft_[pk]*_attn_topk")

torch.set_num_threads(1)  # With more, tensors as small as these mostly wait.


@pytest.mark.parametrize("name", FILES)
def test_golden_torch_sft(name):
    arrays, config = reference.load(name)
    model = TorchSft.from_golden(config, arrays)
    inputs = [torch.from_numpy(arrays[f"in/{slot}"]).double() for slot in SLOTS]
    logits = model(inputs)
    expected = arrays["f64/logits"]
    np.testing.assert_allclose(logits.detach(), expected, rtol=1e-10, atol=1e-10)
    labels = torch.from_numpy(arrays["in/labels"])
    loss = torch.nn.functional.cross_entropy(logits, labels)
    gradients = reference.under(arrays, "grad/")
    if not gradients:  # Not every file has them.
        return
    np.testing.assert_allclose(loss.detach(), arrays["f64/ce_loss"], rtol=1e-10)
    loss.backward()
    own = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    reference.assert_equal(own, gradients, 1e-6)


def test_golden_torch_steps():
    arrays, config = reference.load("optim_AdamW_lr1e-3")
    model = TorchSft.from_golden(config, arrays)
    inputs = [torch.from_numpy(arrays[f"in/{slot}"]).double() for slot in SLOTS]
    labels = torch.from_numpy(arrays["in/labels"])
    optimizer = make_optimizer(model, config["lr"])
    losses = [train_step(model, optimizer, inputs, labels) for _ in arrays["f64/losses"]]
    np.testing.assert_allclose(losses, arrays["f64/losses"], rtol=1e-10)
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    # The gradient of key biases is 0 up to rounding, which Adam enlarges by lr / eps = 1e5.
    reference.assert_equal(own, reference.under(arrays, "f64/param_after3/"), 1e-10)
