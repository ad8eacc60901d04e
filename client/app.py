"""The Flower app of a site: wiring, nothing else."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.door import answer, contribute, introduce, take_turn
from client.site import locate_site

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Introduce the site."""
    return answer(message, lambda: locate_site(context), introduce)


@app.train("gradients")
def gradients(message: Message, context: Context) -> Message:
    """Contribute clipped and noised gradients of one step."""
    return answer(message, lambda: locate_site(context), contribute)


@app.train("updates")
def updates(message: Message, context: Context) -> Message:
    """Contribute the change of the weights after local private training."""
    return answer(message, lambda: locate_site(context), contribute)


@app.train("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Contribute a noised sum of public functions of every unit."""
    return answer(message, lambda: locate_site(context), contribute)


@app.query("sum")
def secure_sum(message: Message, context: Context) -> Message:
    """Take a turn in a secure sum."""
    return answer(message, lambda: locate_site(context), take_turn)
