"""Gives the accounts of a tracking server their roles: reader, trainer, promoter.

    export MLFLOW_TRACKING_URI=https://mlflow.example.com MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=...
    python roles.py set anna trainer     # asks for a password, or takes $NEW_USER_PASSWORD, where the account is new
    python roles.py list
    python roles.py remove anna

A role holds for everything on the server. An account has one role; what it was granted beside it (MLflow makes who
creates an experiment its manager) is taken back when it gets another.
"""

from __future__ import annotations

import argparse
import getpass
import os

from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient
from mlflow.server.auth.entities import Role
from mlflow.server.auth.routes import LIST_USERS

WORKSPACE = "default"  # the one that a server has at first; MLflow's roles belong to one
PASSWORD = "NEW_USER_PASSWORD"

# MLflow asks for the same permission, EDIT on the registered model, of who adds a version to it and of who sets its
# aliases. So whoever may register may promote, and trainers can do neither with a model that others made.
# USE of the workspace is what making new experiments and registered models asks for.
ROLES = {
    "reader": {"experiment": "READ", "registered_model": "READ"},
    "trainer": {"workspace": "USE", "experiment": "EDIT", "registered_model": "READ"},
    "promoter": {"workspace": "USE", "experiment": "EDIT", "registered_model": "MANAGE"},
}


def make_roles(client: AuthServiceClient) -> dict[str, Role]:
    """The three roles, made where they are missing, their permissions put right."""
    found = {role.name: role for role in client.list_roles(WORKSPACE)}
    for name, wanted in ROLES.items():
        role = found.get(name) or client.create_role(WORKSPACE, name)
        found[name] = role
        missing = dict(wanted)
        for held in client.list_role_permissions(role.id):
            if held.resource_pattern == "*" and missing.get(held.resource_type) == held.permission:
                del missing[held.resource_type]
            else:
                client.remove_role_permission(held.id)
        for resource, permission in missing.items():
            client.add_role_permission(role.id, resource, "*", permission)
    return {name: found[name] for name in ROLES}


def set_role(client: AuthServiceClient, user: str, name: str) -> None:
    """Gives `user` the role and no other permission; makes the account where there is none."""
    roles = make_roles(client)
    try:
        client.get_user(user)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_user(user, os.environ.get(PASSWORD) or getpass.getpass(f"password of {user}: "))
    held = client.list_user_roles(user)
    if roles[name].id not in {role.id for role in held}:
        client.assign_role(user, roles[name].id)
        for role in held:
            take_back(client, user, role)


def take_back(client: AuthServiceClient, user: str, role: Role) -> None:
    """Takes a role from a user; the one that MLflow keeps for a user's own grants is emptied instead."""
    if not role.name.startswith("__user_"):
        client.unassign_role(user, role.id)
        return
    for held in client.list_role_permissions(role.id):
        client.revoke_user_permission(user, held.resource_type, held.resource_pattern)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    give = actions.add_parser("set", help="give an account a role; make the account where there is none")
    give.add_argument("user")
    give.add_argument("role", choices=ROLES)
    actions.add_parser("remove", help="delete an account").add_argument("user")
    actions.add_parser("list", help="print who has which role")
    given = parser.parse_args()
    client = AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"])
    if given.action == "set":
        set_role(client, given.user, given.role)
    elif given.action == "remove":
        client.delete_user(given.user)
    else:
        for user in client._request(LIST_USERS, "GET")["users"]:
            held = [role["name"] for role in user["roles"] if role["name"] in ROLES]
            print(user["username"], *held, *(["administrator"] if user["is_admin"] else []))


if __name__ == "__main__":
    main()
