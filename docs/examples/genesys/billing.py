"""The bot of an Architect flow: asks what the call is about and who is calling, and lets the flow go on from there.

In:  customerId, a session variable of the action.
Out: intent, verified, transfer_to, as gateway.toml declares them.
"""

INTENTS = {"1": "bill", "2": "fault", "0": "agent"}


async def bot(call):
    pin = call.options["pins"].get(call.variables.get("customerId", ""))

    await call.say("Welcome to Example Energy.", interruptible=True)
    key = await call.gather(
        "For your bill, press 1. For a fault, press 2. To speak to somebody, press 0.", max_digits=1, tries=2
    )
    intent = INTENTS.get(key, "agent")
    call.variables["intent"] = intent
    call.variables["transfer_to"] = call.options["queues"][intent]

    if pin and intent != "agent":
        entered = await call.gather("Please enter your PIN, then pound.", max_digits=8, timeout_s=8, tries=2)
        call.variables["verified"] = entered == pin

    await call.say("Thank you. I am putting you through.")
